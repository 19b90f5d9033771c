"""Names of persons: given names of many countries, names that are words as well, surnames that are nothing else."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Given names that are no word, place, brand or eponym as well: these need no cue.
FIRST_NAMES = _words("""
aaron abby abdul abdullah abdulrahman abel abena abhi abhijit abhishek abigail abram adaeze adam adama adamu adebayo
adeel adel adela adele adeline adewale aditi aditya adnan adolfo adrian adriana adrienne agnes agnieszka ahmad ahmed
aida aidan aiko aileen aine aino aisha aisling aiyana ajay akanksha akash akemi akhil akiko akin akinyi akira akosua
akshay alaa alan alana alastair albert alberto aldo alec alejandra alejandro aleksander aleksandra aleksei alena
alessandra alessandro alessia alexander alexandra alexandre alexei alexey alexis alfonso alfred alfredo ali alice
alicia alina aline alireza alisha alison alistair aliyah allan allen allison alma almudena alok alonso alvaro alvin
alyson alyssa amal amanda amanpreet amara amarachi amarjeet ambika ameer amelia amelie amina aminata amir amirah amit
amita amna amrit amrita amy anahita anais anand ananya anastasia andile andre andrea andreas andreea andrei andrej
andres andrew andrzej andy aneesha anette angela angelina angelique angelo angie angus anh aniket anil anindita anisha
anita aniyah anja anjali anjana anjum anke ankit anna annabel annabelle annalise anne annemarie annette annie annika
ansh anshul anthea anthony antoine antoinette anton antonella antonia antonina antonio anu anuj anupama anuradha anusha
anushka anwar aoife aparna apoorva araceli aravind archana archie areeba ariana arianna ariel arif arjun arlene armando
arnab arnav arnold arpit arsalan artem arthur arturo arun arvind aryan asad asha ashish ashlee ashleigh ashley ashok
ashwin asif asim asma asmita astrid asuka atif atul audra audrey augustin augusto aurelia aurora avani aviva aya ayaan
ayan ayana ayanda ayesha ayo ayodele ayush azadeh aziz azra babajide babatunde babita baljit balwinder baraka barbara
bartosz bashir basma bea beata beatrice becky belinda bella ben benedict benedikt benita benito benjamin benjy benny
berenice berit bernadette bernard bernardo bernice bernie bert bertha bertram beryl bess beth bethany bettina betty
beulah beverly bhavana bhavesh bhavya bhupinder bianca bibi bilal bindu binod binta bjorn blaise blanca bob bobby
bogdan bonnie boris brad braden bradley brady branden brandi brandon brayden breanna brenda brendan brendon brenna
brent brett brian brianna brianne bridget bridgette brigid brigitte britney brittney bronwyn bruce bruno bryan bryce
bryony bukola burak byron caitlin caitlyn caleb callum calvin camila camilla camille candace candice caoimhe carina
carissa carl carla carlo carlos carlota carlton carly carmel carmela carmelo carmen carol carole caroline carolyn
carrie carsten cassandra cassie catalina catarina cathal catherina catherine cathleen cathy catriona cecelia cecil
cecile cecilia cedric celeste celestino celia celina celine cesar chaim chaitanya chandni chandra chandrika chanel
chanelle chantal charan charlene charles charlotte charmaine cheryl cheyenne chiamaka chiara chidi chidinma chika
chimamanda chinedu chinonso chinwe chioma chirag chitra chloe chris christa christelle christi christiane christie
christina christine christoph christophe christopher christos chuck chukwuemeka chun ciara ciaran cindy claire clara
clarence clarice clarissa claude claudette claudia claudine claudio clayton clemens clementine cleo clifford clifton
clint clinton clive clyde cody colette colin colleen collin conchita connie connor conor conrad consuelo cora coralie
corazon cordelia corey corinna corinne cornelius courtney craig crispin cristian cristiano cristina cristobal curtis
cynthia cyril cyrus dagmar daisuke dalia damian damien damon dan dana danica daniel daniela danielle danilo danita
danny dante danuta daphne dara daria dario darius darlene darnell darrell darren darryl daryl dashiell dave david
davina dawit dayana dean deandre deann deanna debbie debora deborah debra declan deepa deepak deepika deidre deirdre
delia delilah delphine delroy demetrius demi dena deneen denis denisa denise dennis denzel derek dermot desiree desmond
devi devika devin dhanush dharmendra dhruv diallo diana diarmuid diego dieter dikshita dilip dilys dimitri dimitrios
dinah dinesh dion dionne dipak dipika dirk divya dmitri dmitry dolores dominic dominik dominika dominique donal donald
donatella donna donovan doreen dorian doris dorota doroteja dorothea dorothy doug douglas dulce duncan durga dwayne
dwight dylan earl eddie eddy edgar edgardo edith edmond edmund edna eduard eduardo edward edwin edwina efe efua eileen
ekaterina ekta elaina elaine elba elda eleanor elena elias elif elijah elina eliot elisabeth elise eliseo elisha eliza
elizabeth elle ellen ellie elliott elmer elodie eloise elsa elsie elspeth elton elvira elvis emeka emerson emil emile
emilia emiliano emilie emilio emily emine emir emma emmanuel emmett enid enrico enrique enzo eoin ephraim eric erica
ericka erik erin ernest ernesto ernst errol ervin esha esme esmeralda espen esperanza esteban estefania esther estrella
ethan ethel etienne eugene eugenia eugenio eun eunice eva evan evangeline eve evelyn everett evgeny ewa ewan eyal
ezekiel ezra fabian fabiana fabien fabio fadi fahad faisal faiza faizan farah farhan farida faridah farrah faruk fateh
fatima fatma fatou fatoumata fawzia faye federica federico felicia felipe felix femi ferdinand fergus fernanda fernando
fidel filip filippo filomena finlay finn fiona firoz florian floyd folake fran frances francesca francesco francine
francis francisco franco francois frankie franklin franz fred freda freddie freddy frederic frederica frederick
frederik freya frida frieda friedrich fritz fumiko funke funmi gabe gabor gabriel gabriela gabriele gabriella gabrielle
gagan gaganpreet gail ganesh garima garrett garry gary gaurav gavin gayathri gayatri geeta gemma genevieve geoff
geoffrey georg george georgette georgina georgios gerald geraldine gerard gerardo gerhard gerry gertrude ghislaine
giacomo gianluca gianna gideon gilberto gilda giles gillian gina gino giorgio giovanna giovanni girish gisela giselle
gita gitanjali giulia giuliana giuseppe gladys glen glenda glenn glenys gloria gopal goran gordana gordon govind
graciela graeme graham greg gregory greta gretchen grigory griselda grzegorz guadalupe guido guilherme guillaume
guillermo gunnar gunther gurdeep gurmeet gurpreet gus gustav gustavo gwen gwendolyn gwyneth habib habiba hadiza hafsa
haider hakan hakeem hakim haleema halima hamid hamish hamza hana hanan hanna hannah hanne hannelore hans hao hariharan
harini haris harish harjit harlan harold harpreet harriet harry haruka haruki haruto harvey hasan haseeb hassan hayley
hector hedwig heidi heinrich heinz helen helena helene helga helmut heloise hema hemant hemlata henri henrietta
henriette henrik henry herbert heriberto herman hermione hernan hila hilary hilda hilde hillary himanshu hina hiro
hiroko hiroshi hitesh hoda holger homer horace horacio hortense hossein howard howie hubert huda hugh hugo huma humaira
humberto hussain hussein hyun iain ian ianthe ibolya ibrahim ibrahima ida idris ifeanyi ifeoma ignacio igor ikram ilana
ilaria ileana ilhan ilona ilse ilya iman imani imelda imogen imran indira indra indrajit ines inez inga inge ingeborg
ingrid inigo ioana iqbal irena irene irfan irina irma irving isaac isabel isabella isaiah isak isha ishaan ishita
isidro isla ismael ismail isobel isolde israa issa istvan itzel ivan ivana ivo ivor izabela jabari jabulani jace
jacinta jacinto jack jackie jacklyn jacky jacob jacqueline jacquelyn jacques jada jaden jagdish jaideep jaime jake
jakub jamaal jamal jamar jameel jameela james jamie jamila jana jane janelle janet janette janice janine janis janki
jared jarek jaroslav jasbir jason jaspal jasper jaswinder jatin javier jaxon jay jaya jayant jayanthi jayden jayesh
jaylen jayne jayshree jazmin jean jeanette jeanie jeanine jeanne jed jedidiah jeff jeffery jeffrey jelena jemima jemma
jenifer jenna jennie jennifer jenny jens jeremiah jeremy jermaine jerome jerry jess jesse jessica jessie jethro jia
jiang jianguo jiho jill jim jimena jimmy jing jitendra jitesh jiwoo joachim joakim joan joanna joanne joaquin jocelyn
jodie joe joel joelle joey johan johann johanna johannes john johnathan johnnie johnny jolanta jolene jomo jonah jonas
jonathan jonathon joni jonny joost jorge jorgen joris jose josef josefa josefina joseph josephine josh joshua josiah
josie josue jovan joyce joyeeta juan juana juanita judah judi judie judith judy jules julia julian juliana julianna
julianne julie juliet juliette julio julius junaid junko jurgen justin justine justyna jyoti jyotsna kabir kacper
kadeem kaitlin kaitlyn kajal kaleb kalpana kalyani kamal kamala kamil kamila kamini kamran kanchan kande kanika kanwal
kapil kara karan karen karim karima karina karl karla karol karolina karsten karthik karthika kasey kasia katarina
katarzyna kate kateryna katharina katherina katherine kathi kathleen kathrin kathryn kathy katie katja katrin katrina
katya kaushik kavita kavya kay kaye kayla kaylee kazuko kazuo keanu keerthi keiko keira keisha keith kelechi kelley
kelly kelvin kendra kenji kenneth kenny kenta kermit kerri kerry kerstin keshav ketan kevin keziah khadija khadijah
khalid khalil khushi kian kiana kiara kieran kieron kiersten kim kimberley kimberly kimiko kinjal kira kiran kiril
kirsten kirstie kirsty kirti klaas klara klaudia klaus kofi kojo komal konrad konstantin kourtney krish krishan krishna
kristen kristi kristian kristin kristina kristine kristof kristoffer kristy krystal krystyna krzysztof kuldeep
kulwinder kumar kunal kurt kushal kwabena kwadwo kwaku kwame kwasi kyla kyle kylie kyra lacey lachlan ladonna laila
lakeisha lakshmi lalita lalitha lamar lamont lana lara larissa larry lars lashonda latasha latha latifa latisha latonya
latoya laura lauren laurence laurent lauri laurie lavanya laverne lavinia lawanda lawrence layla lazaro leah leandro
leanna leanne leela leena leif leighton leila leilani lela leland lena lenka lenny leocadia leon leonard leonardo
leonid leonie leonor leonora leopold leroy lesego leslie leticia letitia levi lewis leyla liam lian liana libby lidia
lieselotte lila lili lilia lilian liliana lillian lillie lilly lina linda linnea lionel lisa lisette lissa livia liz
liza lizbeth lizette lizzie lloyd lois lola lonnie loraine lorelei loren lorena lorenzo loretta lori lorna lorraine
lottie louella louis louisa louise lourdes luann luc luca lucas lucette lucia luciana luciano lucie lucille lucinda
lucio lucy ludmila luigi luis luisa lukas lukasz luke lupe lupita luther luz lydia lynette lynn lynne lynsey lyudmila
maarten mabel mable maciej mackenzie maddie maddy madeleine madhav madhavi madhu madhuri madina madison mads mae maeve
magda magdalena magnus mahbub mahesh mahmood mahmoud mahnoor maisie maite makoto malcolm malgorzata malia malik malika
mallika mamadou mamata mamta manasi mandeep mandy maneesh mani manish manisha manjit manju manjula manmohan manny manoj
manon manpreet mansi manuel manuela mara maransi marc marcela marcelina marcella marcello marcelo marcia marcin marco
marcos marcus marek margaret margarita margaux margery margie margo margot marguerite maria mariah mariam mariama
marian mariana marianna marianne mariano maribel maricela maricruz marie mariela mariella marietta marija marika mariko
marilena marilou marilyn mario marion marisa marisol marissa marit marius mariusz mariya marjan marjorie marla marlene
marlon marquis marquita marsha marta marten martha marti martin martina martine marty marvin mary maryam maryann
maryanne marybeth marylou marysia masha mason masood massimo matei mateo mateusz mathew mathias mathieu mathilde matias
matilda matt matteo matthew matthias matthieu mattie maureen maurice mauricio mauro mavis maxim maxime maximilian
maxine maya mayank mayra mazen meagan meaghan meena meenakshi meera megan megha meghan meghana mehdi mehmet mehul mei
melanie melinda melissa melvin meredith meredydd meryem meryl meseret mette mia micaela micah michael michaela michal
micheal micheline michelle michiko mick mickey miguel miguelina mihaela mihai mikael mikaela mike mikhail mikko mila
milagros mildred milena millicent millie milos milton mimi mina minako mindy minh minnie mirabel miranda mireille
mirella miriam mirjam miroslav misaki misha mitali mitch mitchell mithun mitsuko mitul moesha mohamad mohamed mohammad
mohammed mohamud mohan mohd mohini mohit moira moises moishe moiz molly momodou monica monika monique montserrat morag
moses moshe mostafa moustafa mridula mrinal mubarak mudassar muhammad muhammadu muhammed mukesh mukta mumtaz munira
murali murat muriel murray musa mustafa mustapha muthu mwangi myeong mykola myra myriam myrna nabeel nabil nabila
nadeem nadeen nadege nadezhda nadia nadine nadir nadira naeem nafisa nagaraj nagesh naheed nahid naila naima najma
nakul nala nalini nallely namita namrata nana nancy nandini nandita naoko naomi napoleon narayan narayanan narendra
naresh nargis narinder naseem nasir nasreen nasrin nastassia nat natalia natalie natalija natalya natasha nathalie
nathan nathanael nathaniel navdeep naveed naveen navneet navya nawal nazanin nazia nazir neal ned neda neela neelam
neeraj neeta neetu neha neil nell nella nellie nelly nelson nerea nestor nettie neville nevin ngozi niamh nicholas
nichole nick nickolas nicky nicola nicolas nicole nicolette nidhi nigel nika nikhil niki nikita nikki nikola nikolai
nikolaos nikolas nilda nilesh nilima nimisha nimra nina niraj niranjan nirav nirmal nirmala nisha nishant nishi nitesh
nitin nitya nkechi nkosana noah nobuko noel noelle noemi noor noora nora norah norbert noreen norma norman norris noura
nuala nuno nura nuria nusrat nyasha nyla obinna octavia octavio odalys odette ofelia oksana olamide olayinka oleg
oleksandr oleksiy olena olga oliver olivia olivier ollie oluchi olufemi oluwaseun oluwatobi omar omari omkar ondrej
oonagh ophelia oren orla orlando orly orville osama oscar osman osvaldo oswald otis otto oumar owen oyin ozan pablo
padma paige palak pallavi pamela pamella pankaj paola paolo paras parisa parminder parul parvati parveen pascal pascale
pasha pasquale patrice patricia patrick patrizia patti patty paul paula paulette paulina pauline paulo pavel pavithra
pawel payton pedram pedro peggy penelope percy pernille perpetua petar pete peter petr petra petronella petros phil
philip philippa philippe phillip philomena phineas phoebe phyllis pia pierre pierrette pietro pilar piotr pippa piyush
polly pooja poonam poornima prabha prabhakar prabhjot prabhu pradeep pradip pragya prajakta prakash prakriti pramila
pramod pranav pranay pranjal prasad prasanna prashant prashanth pratap prateek pratibha pratik pratima praveen praveena
preetam preetha preeti prem prema preston priscilla pritam prithvi priti pritpal priya priyanka priyanshu puja punam
puneet purnima purvi pushpa qasim queenie quentin quincy quinton rabia rachel radha radhika rafael rafaela rafal
raffaele rafi rafiq raghav raghu ragini rahim rahima rahma rahul raimund raina raisa raj raja rajan rajani rajat rajeev
rajendra rajesh rajeshwari rajinder rajiv rajkumar raju rakesh rakhi ralph raluca ram ramakrishna raman ramandeep
rambabu ramesh ramiro ramon ramona ramya ramzi rana randall randi randy ranjana ranjeet ranjit ranveer raoul raphael
raquel rashad rashda rasheed rashid rashida rashmi rasmus raul ravi ravinder ravindra raya rayan raymond raza rebeca
rebecca rebekah reema reena reggie regina reginald rehan rehana reiko reinhard reinhold rekha remi rena renata renate
rene renee renuka reshma reuben rex reyna reynaldo reza rhea rhiannon rhoda rhona rhonda rhys ricardo riccardo richa
richard richelle rick rickey ricky riddhi rifat rigoberto rihanna rikki riku rina risa rishabh rishi rita ritika ritu
rivka riya riyaz robbie robbin robby robert roberta roberto robin robyn rocco rochelle rocio roderick rodney rodolfo
rodrigo rogelio roger rohan rohit roland rolando rolf roma romain roman romana romeo romesh romina ron rona ronald
ronan ronda ronit ronnie roopa rory rosa rosalba rosalia rosalie rosalind rosalinda rosamund rosanna rosanne rosario
roscoe roseann roseanne roselyn rosemarie rosemary rosetta rosie rosita roslyn ross rowena roxana roxanne roy roza
rozalia ruben rubina rudi rudolf rudolph rudra rudy rufus rukhsana rukmini rune rupa rupali rupert rupinder ruslan
russell rutger ruth ruthie ryan saad saanvi sabiha sabina sabine sabrina sachin sadaf sadia sadie saeed safa safiya
sagar sahar saheed sahil saida saif saima saira sajid sakina sakshi sakura salim salima sally salma salman salome
salvatore samantha sami samia samina samir samira sammy sampath samson samuel sana sanaa sandeep sandhya sandip sandra
sandro sangeeta sanjana sanjay sanjeev sanju santiago santosh sapna sara sarabjit sarah sarai sarika sarita saroj
sarojini sascha sasha sashi satish satoshi satya satyam saul saurabh saurav savanna savita savitri sayaka sayed sayeed
scarlett scott scotty sean sebastian sebastien seema segun seiko selena selim selina selma selvi serena sergei sergey
sergio serkan seth severine shabana shabnam shadi shagufta shahana shahbaz shaheen shahid shahida shahin shahnaz
shahzad shaila shailesh shaina shakeel shakila shakira shalini shamim shamima shamsa shana shane shanelle shani shania
shanice shaniqua shankar shannon shanta shanthi shanthini shaquille sharad sharda sharmila sharmin sharon sharonda
sharron shashank shashi shauna shawn shay shayla shayne shazia sheeba sheela sheena shefali sheikha sheila shelby
shelley shelly sheri sherif sherlock sherman sherri sherry sheryl shigeru shikha shilpa shinji shira shiraz shirin
shirley shital shiva shivam shivani shoaib shobha shobhana shona shonda shoshana shreya shreyas shrikant shruti shubham
shubhangi shweta shyam shyla sibongile siddharth siddhartha sidney sidra siegfried sigrid silas silke silvana silvia
silvio simon simone simran sina sindhu sinead siobhan sipho sitara sixtus skye sneha snehal sofia sohail soham soledad
solomon somchai sonal sonali sonam sonia sonja sonya soo sophia sophie sophy soraya soren sourav sowmya spencer
sreedevi sridevi sridhar srinivas srinivasan sriram srishti stacey stacie stacy stan stanislav stanislaw stanley stefan
stefania stefanie stefano stelios stella steph stephan stephane stephania stephanie stephen stephon steve steven
stewart stine stuart subhash sudha sudhakar sudhir suhail suhana sujata sujatha sujit sukanya sukhdeep sukhwinder
sulaiman suleiman sumaiya sumalatha suman sumathi sumeet sumit sumitra sunanda sundar sundaram sundeep sunil sunita
sunitha supriya surabhi suraj surekha surendra suresh surinder surya susan susana susanna susannah susanne sushant
susheela sushil sushila sushma susie suvarna suyash suzanne sven svetlana swapna swapnil swarna swati sybil syed
sylvester sylvia sylvie szymon tabitha tadeusz tahir tahira taiwo takashi takeshi talal talia tamara tameka tami tamika
tamiko tammi tammy tanisha tanja tanmay tanner tanuja tanvi tanya tapan tara taran tariq tarun tasha tasneem tatiana
tatjana tatyana taufiq tawanda tayyab teagan ted teddy tejas tendai tengku tenzin terence teresa terrance terrell
terrence terri terry tess tessa thabo thalia thandi thandiwe thanh thea thelma themba theo theodora theodore theresa
thiago thierry thomas thomasina thuy tiago tiana tiffani tiffany tijani tilda tim timmy timo timothy tina tinashe tirth
titus tobias toby todd tom tomas tomasz tommaso tommie tommy tomoko toni tonia tony tonya torsten tosin tove tracey
traci tracy travis tremaine trent trevor trey tricia trina trish trisha tristan tristram troy trudy trupti tsering
tunde tuomas tushar twila tyler tyra tyree tyrell tyrone tyson uchechi uchenna uday ulises ulrich ulrike uma umair umar
umberto umesh umut unathi upendra urmila ursula urvashi usama usha usman uzma vaibhav vaishali vaishnavi valentin
valentina valentino valeria valerie valery vandana vanessa varsha varun vasant vasanthi vasiliki vasily vasu veena
velma venkat verena verna vernice vernon veronica veronika veronique vianney vicente vicki vickie vicky vidya vihaan
vijay vijaya vijayalakshmi vikas vikram vikrant viktor viktoria vilma vimal vimala vinay vince vincent vincente
vincenzo vineet vineeta vinit vinod violeta violetta vipin vipul viraj virendra virgil virginie vishal vishnu
vishwanath vitor vitoria vittorio vivek vivian viviana viviane vivienne vlad vladimir vladislav vojtech volodymyr vusi
vyacheslav waheed waleed walid wallace walter wambui wanda wangari wanjiru waqar waqas warwick waseem wasim wayne wei
wendell wendy wesley wiktoria wilbert wilbur wilfred wilfredo wilhelm wilhelmina willa willard willem william willie
willis wilma wilmer winifred winnie winston wioletta wojciech wolfgang wyatt xander xavier xiao xiaoli xiaoming ximena
xin xiuying xochitl yahya yakubu yamini yana yannick yara yaroslav yash yashoda yashwant yasin yasir yasmeen yasmine
yasuko yazmin yesenia yetunde yevgeny ying yitzhak yogesh yoko yolanda yolande yong yosef yoshi yoshiko younes younis
youssef ysabel yuki yukiko yulia yumi yuri yusra yusuf yves yvette yvonne zach zachariah zachary zack zaheer zahid
zahir zahra zaid zaida zain zaina zainab zakaria zakir zanele zara zarina zaynab zbigniew zeeshan zehra zeinab zelda
zelma zenaida zeynep zhang zhen zina zinedine ziyad zoe zofia zohra zoltan zoya zubair zuleika zuzana zvi
""")

# Of these, the ones that without a capital may be a word, a part of an eponym or a slip of the pen.
NOT_IN_SMALL_LETTERS = _words("""
adrian agnes ahmed alan alec alexander alma amelia angela anton ariel asha aurora ayan bella bert beryl bess bianca
bonnie bruno carmen carol carrie celeste charles charlotte chuck clara claude clint colin dalia dean devi diana dion
dolores dominique douglas duncan eddy elvis eric ernest eugene ferdinand frances francis gabriel gail george gladys
graham harry helena helga hugo jack jackie jean jenny jerome jerry jimmy jing john johnny josh jules julia kamal kamala
kelly lana lara laurie lena leon levi lina linda lisa liza lois lola lucia luke lydia lynn marco maria marie mario
martin maurice maya mike mina minnie mohan molly moses myra nadir nana napoleon neal neil nell nella nelson nick nina
noor nora norma oscar otto paola patti pete peter petra phil pierre pilar polly prem prema raja rana randy ravi raya
raza rene rhea rick ricky rita robbie robert robin roma roman ronda rory rosa rosemary ross russell sally sami sana
sandra sara sasha saul scott selma seth shakira simon skye sofia solomon sonia stella tara tess thea theo thomas timo
tina titus toby todd tommy toni tony travis trent trey troy tyson umar wanda winnie ying yong yuki zain zara zoe
""")

# Given names that are words or brands: a capital is not enough, only a context that speaks of a person is.
WORDS_TOO = _words("""
angel angelica april art autumn basil bill blessing brandy brooke chance charity chase cherry christian clay cliff
coral crystal daisy dale dawn destiny diane dianne dolly dot drew dusty ebony ella faith felicity florence frank gene
georgia gift ginger glory grace grant guy harmony harsh hazel heath heather holly honey hope hunter iris ivy jade jan
jasmine jewel joy june kitty lance lee leigh leo lily lou mark max melody mercy miles misty norm olive pat patience
pearl penny perry pierce piper poppy precious prince princess prudence ray rich rob rod rose ruby rusty sage sandy skip
sky sterling sue summer sunny trip vera victor violet wade ward will willow yasmin
""")

# Surnames that are neither words nor eponyms: with a capital these need no cue.
SURNAMES = _words("""
abdi acosta adeleke adeyemi agarwal aggarwal aguilar aguirre ahmadi akhtar alonzo alvarado alvarez ansari appiah asante
ashraf avila ayala bajwa balakrishnan banerjee bautista begum beltran bhatia bhatt bhattacharya boateng borges bouchard
caballero cabrera calderon camacho campbell cardenas castaneda castillo castro cervantes chakraborty chandrasekhar
chatterjee chaudhary chaudhry chavez chen cheng choudhury chowdhury contreras cortez delacruz delgado deshmukh
deshpande dias diaz diop dlamini dominguez duarte dubois dutta eriksson espinoza estrada farooq fernandes fernandez
figueroa fitzgerald fofanah fuentes fujimoto gallegos garcia garza ghosh gomez gonzales gonzalez gunawardena gupta
gutierrez guzman hernandez herrera hidalgo hoang hughes hussaini hwang iyengar iyer jaiswal jankowski jansen jimenez
johansson kamau kapoor kaur kaushal kenyatta khanna khatun kowalczyk kowalski kulkarni kumari kuznetsov leblanc
lewandowski lindqvist lopez lozano macdonald mahlangu maldonado malhotra marquez martinez mbeki mcallister mcdonald
mcgrath mehta mejia mendez mendoza menon mensah mishra mitra mokoena molina mukherjee mutua mwale naidoo nair nakamura
ndlovu nguyen nkosi nowak ochieng oconnor odhiambo ogunleye okafor okeke okonkwo okoro olsson onyango ortega ortiz osei
owusu pacheco padilla pandey papadopoulos patel patil pereira perez petersen pham pillai ponce popescu quintero quispe
qureshi rahman ramirez rangel rao reddy rivas rivera robles rodrigues rodriguez rojas romero rossi ruiz saavedra
salazar sandoval santoro schneider serrano sharma shrestha shukla siddiqui sithole solis soto suarez subramanian
sullivan suzuki takahashi tanaka tiwari torres tran trivedi tshabalala valdez vargas vasquez vazquez velasquez velez
venkatesan verma villanueva villarreal watanabe wozniak yadav yamamoto yilmaz yoshida zamora zhao zhou zuniga
""")
